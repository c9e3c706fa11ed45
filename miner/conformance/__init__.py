"""The contract as tests that any backend can run.

::

    pytest --pyargs miner.conformance --miner-backend NAME [--miner-model MODEL]

They use the public verbs alone. A capability that the backend does not declare must be refused by name. The run ends
with a matrix of capabilities: passes, refused as declared, not checked, fails.
"""
