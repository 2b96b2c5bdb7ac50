# `autonomy policy test demo/policies` runs these; no bundle holds them.
package demo_test

test_echo_is_allowed if {
	data.autonomy.allow with input as {"kind": "tool.echo"}
	count(data.autonomy.deny) == 0 with input as {"kind": "tool.echo"}
}

test_shell_is_denied_with_a_reason if {
	data.autonomy.deny == {"shell is not allowed"} with input as {"kind": "tool.shell"}
}

test_what_nobody_named_is_not_allowed if {
	not data.autonomy.allow with input as {"kind": "tool.other"}
}
