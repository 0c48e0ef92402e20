-- Removes a partition with what its groups keep there. KEYS: its list, its record, delayed.
wipe(KEYS[1], KEYS[2], KEYS[3])
return 1
