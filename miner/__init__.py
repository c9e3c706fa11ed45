"""miner: one async Python interface over the LLM engines that people run themselves."""

__version__ = "0.1.0"
