"""One file per `ttvr-bench` subcommand, the slow baselines included."""
