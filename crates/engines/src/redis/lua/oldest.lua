-- The oldest entries of a partition that every group settled. KEYS: stream. ARGV: how many at most. Answers ids.
local bound
local function lower(id)
  local ms, seq = id:match('^(%d+)-(%d+)$')
  local key = {tonumber(ms), tonumber(seq)}
  if not bound or key[1] < bound[1] or (key[1] == bound[1] and key[2] < bound[2]) then bound = key end
end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local first = redis.call('XPENDING', KEYS[1], field(group, 'name'))[2]
  if first then
    lower(first)
  else
    local ms, seq = field(group, 'last-delivered-id'):match('^(%d+)-(%d+)$')
    lower(ms .. '-' .. string.format('%d', tonumber(seq) + 1))
  end
end
local ids = {}
for i, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1])) do
  local ms, seq = entry[1]:match('^(%d+)-(%d+)$')
  ms, seq = tonumber(ms), tonumber(seq)
  if bound and (ms > bound[1] or (ms == bound[1] and seq >= bound[2])) then break end
  ids[i] = entry[1]
end
return {now, redis.call('XLEN', KEYS[1]), ids}
