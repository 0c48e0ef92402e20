-- Ends a lease now. ARGV: channel, its name.
redis.call('ZADD', LEASES, 'XX', whole(micros), ARGV[2])
return {sweep() and FINE or BUSY, 0}
