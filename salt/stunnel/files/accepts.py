"""Whether a port accepts connections:    accepts.py ADDRESS PORT"""

import socket
import sys

socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()
