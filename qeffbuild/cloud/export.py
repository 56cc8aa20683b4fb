"""The command line of QEfficient.cloud.export -> an export and where it lies; `--help` lists its flags."""

import sys

from qeffbuild.cloud.door import main

if __name__ == "__main__":
    sys.exit(main("export"))
