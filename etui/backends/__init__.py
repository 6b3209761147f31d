"""Where answers come from: this process, or a child process."""
