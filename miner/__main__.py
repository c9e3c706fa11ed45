"""`python -m miner`: the same as the command `miner`."""

from miner.cli.main import run

if __name__ == "__main__":
    raise SystemExit(run())
