-- Makes the stream of a partition. KEYS: stream, record of the partition, delayed. ARGV: birth of the topic.
-- A stream that a removal left behind is emptied; one that Linchpin didn't make is taken as it is.
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'none' and kind ~= 'stream' then
  return redis.error_reply('WRONGTYPE the key holds a ' .. kind)
end
local born = redis.call('HGET', KEYS[2], 'born')
if born == ARGV[1] and kind == 'stream' then return 0 end
if born and born ~= ARGV[1] then redis.call('DEL', KEYS[1], KEYS[3]) end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], WAITING, '$', 'MKSTREAM')
  redis.call('XGROUP', 'DESTROY', KEYS[1], WAITING)
end
redis.call('HSET', KEYS[2], 'born', ARGV[1])
return 1
