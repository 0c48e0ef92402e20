-- Moves a group in one partition: what it held is forgotten, and deliveries made before are fenced.
-- KEYS: stream, record of the group, waiting. ARGV: group, its birth, where it goes on.
local start = place(KEYS[1], ARGV[3])
redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], start)
redis.call('DEL', KEYS[3])
redis.call('HINCRBY', KEYS[2], 'epoch', 1)
redis.call('HSET', KEYS[2], 'born', ARGV[2], 'owner', '', 'until', 0)
return 1
