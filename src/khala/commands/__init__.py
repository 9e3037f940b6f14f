"""One file per group of subcommands: what each is asked, and what it says. See khala.cli."""
