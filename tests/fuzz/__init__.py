"Damaged copies of every kind of input, each read as a phase reads it: refused by name, unchanged, or a fault"
