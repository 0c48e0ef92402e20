-- Stores messages of one partition, or keeps them back. KEYS: its list, its record, delayed.
-- ARGV: channel of hints, then per message its delay in ms and its payload. Answers 0 without the partition.
if redis.call('HEXISTS', KEYS[2], 'born') == 0 then return 0 end
local payloads = {}
for i = 2, #ARGV, 2 do
  if ARGV[i] == '0' then
    payloads[#payloads + 1] = ARGV[i + 1]
  else
    -- Messages that are due together keep the order in which they were published.
    local mark = string.format('%016d%06d', clock[1] * 1000000 + clock[2], i)
    redis.call('ZADD', KEYS[3], now + ARGV[i], mark .. ARGV[i + 1])
  end
end
push(KEYS[1], KEYS[2], payloads)
hint(ARGV[1])
return 1
