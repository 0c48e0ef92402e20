-- Begins a lease. ARGV: channel, its name, its time in microseconds.
if not sweep() then return {BUSY, 0} end
redis.call('ZADD', LEASES, whole(micros + ARGV[3]), ARGV[2])
redis.call('HSET', TIMES, ARGV[2], ARGV[3])
return {FINE, 0}
