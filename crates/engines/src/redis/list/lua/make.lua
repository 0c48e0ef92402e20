-- Makes a partition. KEYS: its list, its record, delayed. ARGV: birth of the topic.
-- What a removal left behind goes; a list that Linchpin didn't make is taken as it is.
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'none' and kind ~= 'list' then return redis.error_reply('WRONGTYPE the key holds a ' .. kind) end
local born = redis.call('HGET', KEYS[2], 'born')
if born == ARGV[1] then return 0 end
if born then wipe(KEYS[1], KEYS[2], KEYS[3]) end
redis.call('HSET', KEYS[2], 'born', ARGV[1])
return 1
