"""Tests of the contract, the services and what they are made of."""
