-- Gives a lease its whole time again. ARGV: channel, its name.
if not sweep() then return {BUSY, 0} end
local time = redis.call('HGET', TIMES, ARGV[2])
if not time then return {NO_LEASE, 0} end
redis.call('ZADD', LEASES, whole(micros + time), ARGV[2])
return {FINE, 0}
