-- Makes a member the owner of a partition under an order, with a higher fence. What the owner before held waits again.
-- KEYS: stream, record of the group, waiting. ARGV: group, consumer, birth of the group, lease in ms.
-- Answers now, fence (0 if it has a living owner), epoch, and {id, attempts, due} of all that waits, in order.
local stream, record, waiting = KEYS[1], KEYS[2], KEYS[3]
local group, me = ARGV[1], ARGV[2]
local about = redis.call('HMGET', record, 'born', 'owner', 'until', 'ordered')
if about[1] ~= ARGV[3] then return redis.error_reply('LPGONE the group was removed') end
local owner = about[2] or ''
if owner ~= '' and owner ~= me and tonumber(about[3] or 0) > now then return {now, 0, 0, {}} end

if about[4] ~= '1' then redis.call('HINCRBY', record, 'epoch', 1) end
local fence = redis.call('HINCRBY', record, 'fence', 1)
redis.call('HSET', record, 'owner', me, 'until', now + ARGV[4], 'ordered', 1)
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local name = field(consumer, 'name')
  if name ~= WAITING then
    local last = '-'
    while last do
      local held = redis.call('XPENDING', stream, group, last, '+', 500, name)
      last = nil
      for _, entry in ipairs(held) do
        wait(stream, group, waiting, entry[1], entry[4], now)
        last = '(' .. entry[1]
      end
    end
  end
end
local all, last = {}, '-'
while last do
  local held = redis.call('XPENDING', stream, group, last, '+', 500, WAITING)
  last = nil
  for _, entry in ipairs(held) do
    all[#all + 1] = {entry[1], entry[4], tonumber(redis.call('ZSCORE', waiting, entry[1]) or now)}
    last = '(' .. entry[1]
  end
end
return {now, fence, tonumber(redis.call('HGET', record, 'epoch')), all}
