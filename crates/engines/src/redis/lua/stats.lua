-- What a partition holds. KEYS: stream, delayed. Answers messages, delayed, the oldest id, and {name, lag, in hand, waiting}
-- of each group.
local function lag_of(group)
  local lag = field(group, 'lag')
  if lag then return lag end
  -- Redis lost count: a group was moved into the middle. Counted page by page.
  local count, last = 0, '(' .. field(group, 'last-delivered-id')
  while last do
    local page = redis.call('XRANGE', KEYS[1], last, '+', 'COUNT', 500)
    count = count + #page
    last = #page > 0 and '(' .. page[#page][1]
  end
  return count
end

local groups = {}
for i, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local name = field(group, 'name')
  local waiting = redis.call('ZCARD', KEYS[1] .. ':w:' .. name)
  groups[i] = {name, lag_of(group), math.max(field(group, 'pending') - waiting, 0), waiting}
end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return {redis.call('XLEN', KEYS[1]), redis.call('ZCARD', KEYS[2]), oldest and oldest[1] or '', groups}
