# For scripts/filter-use: reads the tables of docs/sandbox.md, then strace's output, and counts who used which line.

# --- The tables ---

/^<!-- filter: begin/ { program = "blk-helper" }
/^<!-- vmm filters: begin/ { program = "mayfly-vmm" }
/^<!-- import filter: begin/ { program = "mayfly-import" }
/^<!-- .*: end/ { program = "" }

FILENAME ~ /sandbox\.md$/ {
    if (program != "" && /^\| `/) {
        gsub(/\\\|/, "+")
        split($0, column, "|")
        rows++
        of[rows] = program
        name[rows] = column[2]
        gsub(/[ `]/, "", name[rows])
        condition[rows] = column[3]
        gsub(/^ +| +$/, "", condition[rows])
    }
    next
}

# --- The traces ---

FNR == 1 {
    traced = FILENAME
    sub(/.*\//, "", traced)
    sub(/\.[0-9]+$/, "", traced)
    confined = 0
    delete role
    delete counted
    process++
}

{
    sub(/^[0-9]+ +/, "")
    call = $0
    if (!sub(/\(.*/, "", call) || call ~ /[^a-z0-9_]/) next
    arguments = substr($0, length(call) + 2)
    result = (match($0, / = [0-9]+$/) ? substr($0, RSTART + 3) : "")
    first = arguments + 0
    # What this one is about comes second.
    if (call == "dup3") { split(arguments, part, ", "); first = part[2] + 0 }
}

# What the numbers of descriptors stand for.
!confined && call == "openat" && /O_TMPFILE/ && result != "" { role[result] = "overlay" }
!confined && call == "socket" && /SOCK_SEQPACKET/ { kind[result] = "control listener" }
!confined && call == "socket" && /SOCK_STREAM/ { kind[result] = "listener" }
!confined && call == "listen" { role[first] = kind[first] }
call == "dup3" { role[first] = "output" }
# An import is given its output. It may write so to nothing else.
traced == "mayfly-import" && call == "pwrite64" { role[first] = "output" }
call == "seccomp" && /FLAG_TSYNC/ { confined = 1; next }

confined {
    # strace has shorter names for some.
    token = " " arguments " "
    if (call == "futex") gsub(/_PRIVATE/, " FUTEX_PRIVATE_FLAG", token)
    gsub(/[^A-Za-z0-9_]+/, " ", token)
    for (row = 1; row <= rows; row++)
        if (name[row] == call && of[row] == traced) note(row)
}

# Whether all constants of "A + B" are there, or the descriptor plays the part.
function said(words,    list, count, i) {
    if (words ~ /^(overlay|spare overlay|output|listener|control listener)$/)
        return role[first] == words || (words == "spare overlay" && role[first] == "overlay")
    if (words !~ /^[A-Z0-9_+ ]+$/) return 1
    count = split(words, list, / *\+ */)
    for (i = 1; i <= count; i++) if (index(token, " " list[i] " ") == 0) return 0
    return 1
}

# Counts a line, and in it the alternatives and optional bits, once for each process.
function note(row,    parts, count, i, words, choice, choices, j, any, used, bits, bit) {
    count = split(condition[row], parts, /; /)
    used = ""
    for (i = 1; i <= count; i++) {
        words = parts[i]
        if (words ~ /≠|without/) continue
        if (words ~ / only / || words ~ /, perhaps /) {
            bits = words
            sub(/.*( only |, perhaps )/, "", bits)
            choices = split(bits, bit, / *\+ */)
            for (j = 1; j <= choices; j++) if (said(bit[j])) used = used SUBSEP bit[j]
            sub(/, perhaps .*/, "", words)
            if (words ~ / only /) continue
        }
        sub(/.* = /, "", words)
        choices = split(words, choice, / or /)
        any = 0
        for (j = 1; j <= choices; j++) if (said(choice[j])) {
            any = 1
            if (choices > 1) used = used SUBSEP choice[j]
        }
        if (!any) return
    }
    count = split(row used, parts, SUBSEP)
    for (i = 1; i <= count; i++) {
        words = (i == 1 ? row : row SUBSEP parts[i])
        if (!((process, words) in counted)) { counted[process, words] = 1; uses[words]++ }
    }
}

END {
    for (row = 1; row <= rows; row++) {
        printf "%7d  %-14s %-18s %s\n", uses[row], of[row], name[row], condition[row]
        words = condition[row]
        gsub(/[a-z]+ ≠ [^;]*(; )?|[a-z]+ without [^;]*(; )?/, "", words)
        count = split(words, parts, /; /)
        for (i = 1; i <= count; i++) {
            bits = parts[i]
            if (bits !~ / or | only |, perhaps /) continue
            if (bits ~ / or / && bits !~ /, perhaps /) sub(/.* = /, "", bits); else sub(/.*( only |, perhaps )/, "", bits)
            if (bits !~ / or /) gsub(/ *\+ */, " or ", bits)
            choices = split(bits, choice, / or /)
            for (j = 1; j <= choices; j++) printf "%7d  %-14s %-18s   %s\n", uses[row SUBSEP choice[j]], "", "", choice[j]
        }
    }
}
