"""miner: one async Python interface over the LLM engines that people run themselves."""

from pkgutil import extend_path

__version__ = "0.1.0"

# Programs that this library is for have a directory of the same name at their top: submodules of both are found.
__path__ = extend_path(__path__, __name__)
