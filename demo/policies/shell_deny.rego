# No agent runs commands, whatever another policy allows.
package autonomy

deny contains "shell is not allowed" if input.kind == "tool.shell"
