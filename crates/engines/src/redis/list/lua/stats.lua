-- What a partition holds. KEYS: its list, delayed, its record. Answers messages, delayed, the id of one that is among the oldest,
-- and {name, lag, in hand, waiting} of each group. The group that has most to do says how many messages there are.
local most, oldest, first, groups = redis.call('LLEN', KEYS[1]), '', nil, {}
for i, group in ipairs(groups_of(KEYS[3])) do
  local list, record, waiting = keys_of(KEYS[1], KEYS[3], group)
  local _, _, leases = taken_of(record)
  local lag, hand, waits = redis.call('LLEN', list), redis.call('ZCARD', leases), redis.call('ZCARD', waiting)
  most = math.max(most, lag + hand + waits)
  for _, set in ipairs({leases, waiting}) do
    local id = redis.call('ZRANGE', set, 0, 0)[1]
    local time = id and tonumber(id:match('^%d+'))
    if time and (not first or time < first) then oldest, first = id, time end
  end
  groups[i] = {group, lag, hand, waits}
end
return {most, redis.call('ZCARD', KEYS[2]), oldest, groups}
