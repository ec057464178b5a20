"""What the command line of older versions does not know."""

control_socket_disable = True  # it would lie in the home directory, one for all servers
