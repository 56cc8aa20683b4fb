"""The command line of QEfficient.cloud.compile -> a graph for the device, compiled; `--help` lists its flags."""

import sys

from qeffbuild.cloud.door import main

if __name__ == "__main__":
    sys.exit(main("compile"))
