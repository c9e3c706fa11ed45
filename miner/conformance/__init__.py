"""The contract as tests that any backend can run.

::

    pytest --pyargs miner.conformance --miner-backend NAME [--miner-model MODEL]

Only the public verbs are used. A capability that the backend does not declare must be refused by name. The run ends
with a table of the capabilities: passed, unsupported (not declared, and refused), not checked, failed.
"""
