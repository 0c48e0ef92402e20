-- Takes a consumer that holds nothing out of the group: deleting one that holds something would lose it.
-- KEYS: stream, record of the group. ARGV: group, consumer, birth of the group.
if redis.call('HGET', KEYS[2], 'born') ~= ARGV[3] then return 0 end
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1
