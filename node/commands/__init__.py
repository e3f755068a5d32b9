"""The commands of `forebay`, one family a file; `node/cli.py` puts them together."""
