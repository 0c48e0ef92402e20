-- Answers what is under a key: {meta, value}, or nothing. ARGV: channel, key.
if not sweep() then return {BUSY, 0} end
local meta = redis.call('HGET', META, ARGV[2])
return {FINE, meta and {meta, redis.call('HGET', VALUES, ARGV[2])}}
