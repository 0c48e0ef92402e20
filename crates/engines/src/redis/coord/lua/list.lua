-- Lists keys in the order of their bytes. ARGV: channel, the first and the last of them as ZRANGE takes them, how many at most, and
-- how many bytes of values are enough. Answers the revision, whether there are more, and {key, meta, value} of each.
if not sweep() then return {BUSY, 0} end
local names = redis.call('ZRANGE', NAMES, ARGV[2], ARGV[3], 'BYLEX', 'LIMIT', 0, ARGV[4])
local entries, size, enough = {}, 0, tonumber(ARGV[5])
for i, key in ipairs(names) do
  if size > enough then return {FINE, {rev, 1, entries}} end
  local value = redis.call('HGET', VALUES, key)
  entries[i], size = {key, redis.call('HGET', META, key), value}, size + #value
end
return {FINE, {rev, #names == tonumber(ARGV[4]) and 1 or 0, entries}}
