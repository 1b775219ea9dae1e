"""The command line of the sft stage."""

from components.cli import main
from components.sft.stage import run

if __name__ == "__main__":
    main(run)
