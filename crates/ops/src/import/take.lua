-- Moves entries out of a place of another system into the list that an import works on. One step: an entry is in one of both.
-- KEYS[1]: the place: a list, or a sorted set. KEYS[2]: the import's list. KEYS[3]: for `unacked` the hash with the messages.
-- ARGV[1]: list, sorted or unacked. ARGV[2]: entries at most.
-- Answers how many were moved. An entry of the import's list is `<score> <entry>`; of `unacked` `<score> <tag>\n<message>`.
local moved = 0
if ARGV[1] == 'list' then
    for _ = 1, tonumber(ARGV[2]) do
        local entry = redis.call('RPOP', KEYS[1])
        if not entry then break end
        redis.call('LPUSH', KEYS[2], '0 ' .. entry)
        moved = moved + 1
    end
    return moved
end
local found = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1, 'WITHSCORES')
for i = 1, #found, 2 do
    local entry, score = found[i], found[i + 1]
    redis.call('ZREM', KEYS[1], entry)
    moved = moved + 1
    if ARGV[1] == 'sorted' then
        redis.call('LPUSH', KEYS[2], score .. ' ' .. entry)
    else
        local message = redis.call('HGET', KEYS[3], entry)
        -- A tag without a message was acknowledged.
        if message then
            redis.call('LPUSH', KEYS[2], score .. ' ' .. entry .. '\n' .. message)
            redis.call('HDEL', KEYS[3], entry)
        end
    end
end
return moved
