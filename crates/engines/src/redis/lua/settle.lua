-- Settles deliveries of one partition that one member holds under one epoch and one fence.
-- KEYS: stream, record of the group, waiting.
-- ARGV: group, consumer, birth of the group, epoch, fence (0 without order), until when nobody else can have taken them,
-- channel of hints, how many acks, their ids, whether their attempts follow, these if so; then per other settle: what, id,
-- attempt, number. Answers now, and a 1 for each that took effect, a 0 for each that was lost; nothing if all were, and
-- a ? if nothing was done because attempts must be compared and weren't there.
local stream, record, waiting = KEYS[1], KEYS[2], KEYS[3]
local group, me, fence, safe, acks = ARGV[1], ARGV[2], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[8])
local about = redis.call('HMGET', record, 'born', 'epoch', 'owner', 'fence')
if about[1] ~= ARGV[3] or about[2] ~= ARGV[4] then return {now, ''} end
if fence ~= '0' and (about[3] ~= me or about[4] ~= fence) then return {now, ''} end

local function is_mine(id, attempt)
  local attempts, holder = pending(stream, group, id)
  return holder == me and attempts == tonumber(attempt)
end

local compared, took = ARGV[9 + acks] == '1', {}
if acks > 0 and now >= safe and not compared then return {now, '?'} end
if acks > 0 and now < safe then
  redis.call('XACK', stream, group, unpack(ARGV, 9, 8 + acks))
  took[1] = string.rep('1', acks)
else
  for i = 9, 8 + acks do
    local mine = is_mine(ARGV[i], ARGV[i + acks + 1])
    if mine then redis.call('XACK', stream, group, ARGV[i]) end
    took[#took + 1] = mine and '1' or '0'
  end
end
local waits = false
for i = 10 + (compared and 2 or 1) * acks, #ARGV, 4 do
  local what, id, attempt, number = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local mine = is_mine(id, attempt)
  if mine and what == 'extend' then
    redis.call('XCLAIM', stream, group, me, 0, id, 'JUSTID')
  elseif mine and what == 'nack' then
    wait(stream, group, waiting, id, attempt, now + number)
    waits = true
  elseif mine and what == 'back' then
    wait(stream, group, waiting, id, number, now)
    waits = true
  end
  took[#took + 1] = mine and '1' or '0'
end
if waits then hint(ARGV[7]) end
return {now, table.concat(took)}
