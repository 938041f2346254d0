"The `dhs` command, also as `python -m dark_halo_scope`"

import sys


def main() -> None:
    "Hands the line to `dhs`; ends with code 2 where only the painter's packages are installed"
    try:
        from dark_halo_scope.command.cli import main as command
    except ModuleNotFoundError as error:
        if str(error.name).startswith("dark_halo_scope"):
            raise
        print(f"dhs: {error.name} is not installed; pip install 'dark-halo-scope[search]' brings what the command needs", file=sys.stderr)
        sys.exit(2)
    command()


if __name__ == "__main__":
    main()
