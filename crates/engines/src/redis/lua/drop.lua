-- Removes a group from one partition. KEYS: stream, record of the group, waiting. ARGV: group, its birth ('' for any).
local born = redis.call('HGET', KEYS[2], 'born')
if ARGV[2] ~= '' and born and born ~= ARGV[2] then return 0 end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1]) end
redis.call('DEL', KEYS[2], KEYS[3])
return 1
