"""The subcommands of `vidattn`: nothing but wiring, imported lazily."""
