"""Code that all backends share: requests, the driver, streams, checks."""
