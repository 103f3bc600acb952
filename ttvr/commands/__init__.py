"""The command line: argparse and printing, no mathematics."""
