-- Removes a partition with what its groups keep there. KEYS: stream, record of the partition, delayed.
if redis.call('TYPE', KEYS[1])['ok'] == 'stream' then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local name = field(group, 'name')
    redis.call('DEL', KEYS[1] .. ':g:' .. name, KEYS[1] .. ':w:' .. name)
  end
end
return redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
