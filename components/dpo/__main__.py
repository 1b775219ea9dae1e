"""The command line of the dpo stage."""

from components.cli import main
from components.dpo.stage import run

if __name__ == "__main__":
    main(run)
