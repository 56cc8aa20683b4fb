"""The command line of QEfficient.cloud.execute -> a built package, run; `--help` lists its flags."""

import sys

from qeffbuild.cloud.door import main

if __name__ == "__main__":
    sys.exit(main("execute"))
