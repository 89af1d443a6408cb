"""What holds when processes are killed, strangers come in crowds, or a fault slips into the code."""
