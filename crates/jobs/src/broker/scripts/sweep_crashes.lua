-- Forgets the crashes of jobs that are gone.
--
-- KEYS[1] crashes  hash  id -> crashes
-- KEYS[2] data     hash  id -> envelope
-- ARGV[1] cursor, '0' at first
--
-- Answer: {next cursor, how many were forgotten}; cursor '0' ends the round

local portion = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 100)
local gone = 0
for i = 1, #portion[2], 2 do
    if redis.call('HEXISTS', KEYS[2], portion[2][i]) == 0 then
        gone = gone + redis.call('HDEL', KEYS[1], portion[2][i])
    end
end
return { portion[1], gone }
