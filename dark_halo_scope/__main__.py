"`python -m dark_halo_scope` is the `dhs` command"

from dark_halo_scope.command.cli import main

main()
