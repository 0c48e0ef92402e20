-- Makes a group known to a partition. KEYS: stream, record of the group, waiting.
-- ARGV: group, its birth, where it starts. Answers 0 if it was known.
if redis.call('HGET', KEYS[2], 'born') == ARGV[2] then return 0 end
redis.call('DEL', KEYS[3])
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], place(KEYS[1], ARGV[3]))
if made.err and not made.err:find('BUSYGROUP') then return made end
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[2], 'born', ARGV[2], 'epoch', 1, 'fence', 0)
return 1
