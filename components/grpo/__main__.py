"""The command line of the grpo stage."""

from components.cli import main
from components.grpo.stage import run

if __name__ == "__main__":
    main(run)
