"""The commands of `decaf`, one file each: HELP, EXAMPLE, add_arguments, run -> exit code."""
