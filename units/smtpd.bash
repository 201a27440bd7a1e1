# bash completion for smtpd: options and transports are those that the program
# itself names in --help.

_smtpd() {
	local cur prev words cword split relay= whole
	_init_completion -s -n : || return
	local help
	help=$("$1" --help 2>/dev/null)

	# After "--" comes a program with its own arguments.
	local i
	for ((i = 1; i < cword; i++)); do
		if [[ ${words[i]} == -- ]]; then
			_command_offset $((i + 1))
			return
		fi
	done

	# Its value is optional, and comes after "=" only.
	[[ $prev == --check && $split != true ]] && prev=

	case $prev in
	--bare-newline) COMPREPLY=($(compgen -W 'reject normalize unix' -- "$cur")) ;;
	--relay-tls) COMPREPLY=($(compgen -W 'none may must' -- "$cur")) ;;
	--milter-default) COMPREPLY=($(compgen -W 'tempfail accept reject' -- "$cur")) ;;
	--log-level) COMPREPLY=($(compgen -W 'err warning notice info' -- "$cur")) ;;
	--check) COMPREPLY=($(compgen -W 'start connect' -- "$cur")) ;;
	--user) COMPREPLY=($(compgen -u -- "$cur")) ;;
	--auth) relay='file: dovecot: checkpassword: relay:' ;;
	--policy | --milter) relay='unix: inet:' ;;
	--tls-engine) relay='unix:' ;;
	--from | --relay-domains) _filedir; return ;;
	--quarantine) relay='maildir:' ;;
	--command-limit) COMPREPLY=($(compgen -W 'NOOP= RCPT= RSET= VRFY=' -- "$cur"))
		compopt -o nospace ;;
	*)
		# Does the option before take a value?  A file's is completed.
		case $(sed -nE "s/^ +(-., |    )($prev) ([A-Z]).*/\3/p
		    s/^ +($prev), --[a-z-]+ ([A-Z]).*/\2/p" <<<"$help") in
		'') ;;
		F) _filedir; return ;;
		*) return ;;
		esac
		if [[ $cur == -* ]]; then
			COMPREPLY=($(compgen -W "$(grep -oE -- \
			    '(^|, | )--[a-z-]+' <<<"$help" | tr -d ' ,') --" \
			    -- "$cur"))
			return
		fi
		relay=$(sed -n '/^TRANSPORT/,/;$/p' <<<"$help" |
		    grep -oE '(^| )[a-z]+:' | tr -d ' ' | sort -u | tr '\n' ' ') ;;
	esac
	[[ -n $relay ]] || return
	whole=$cur

	# What ends in a path is completed as one.
	case $cur in
	file:* | dovecot:* | checkpassword:* | unix:* | maildir:* | print:* | show:* | lmtp:unix:* | smtp:unix:*)
		local before=${cur%:*}:
		cur=${cur##*:}
		_filedir
		COMPREPLY=("${COMPREPLY[@]/#/$before}")
		compopt -o nospace ;;
	*)
		COMPREPLY=($(compgen -W "$relay" -- "$cur"))
		compopt -o nospace ;;
	esac

	__ltrim_colon_completions "$whole"
} && complete -F _smtpd smtpd
