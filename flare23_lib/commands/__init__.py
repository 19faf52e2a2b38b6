"""The commands by subject; each module adds its own to the parser, and a command imports only what it needs."""
