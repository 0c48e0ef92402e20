-- Removes a group from one partition. KEYS: list, record of the group, waiting, delayed, record of the partition.
-- ARGV: group, its birth ('' for any).
local born = redis.call('HGET', KEYS[2], 'born')
if ARGV[2] ~= '' and born and born ~= ARGV[2] then return 0 end
wipe_group(KEYS[1], KEYS[2], KEYS[3])
redis.call('HDEL', KEYS[5], 'g:' .. ARGV[1])
return 1
