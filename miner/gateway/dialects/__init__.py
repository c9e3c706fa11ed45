"""The APIs that clients speak, one module for each resource. A dialect knows bodies and events; no engine, no HTTP."""
