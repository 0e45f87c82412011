output "artifact" {
  description = "What the functions run"
  value       = aws_cloudformation_stack.this.outputs["Artifact"]
}

output "alarm" {
  description = "The alarm that locks; null with guarded_tag"
  value       = lookup(aws_cloudformation_stack.this.outputs, "Alarm", null)
}

output "alarms" {
  description = "The alarms of health_checks, by their keys"
  value       = { for key, alarm in aws_cloudwatch_metric_alarm.primary_unhealthy : key => alarm.alarm_name }
}

output "topic" {
  description = "The topic that the alarm notifies"
  value       = aws_cloudformation_stack.this.outputs["Topic"]
}

output "notifications" {
  description = "The topic that reaches people"
  value       = aws_cloudformation_stack.this.outputs["Notifications"]
}

output "lock" {
  description = "The function that locks"
  value       = aws_cloudformation_stack.this.outputs["Lock"]
}

output "reconcile" {
  description = "The function that runs every minute"
  value       = aws_cloudformation_stack.this.outputs["Reconcile"]
}

output "restore" {
  description = "The function that restores"
  value       = aws_cloudformation_stack.this.outputs["Restore"]
}

output "dead_letters" {
  description = "Alarms that could not be delivered"
  value       = aws_cloudformation_stack.this.outputs["DeadLetters"]
}

output "dashboard" {
  description = "The dashboard in CloudWatch"
  value       = lookup(aws_cloudformation_stack.this.outputs, "Dashboard", null)
}

output "status" {
  description = "Prints the path of a health check, which decides whether it is locked"
  value       = aws_cloudformation_stack.this.outputs["Status"]
}

output "restore_command" {
  description = "Restores a health check, once the sites are synchronised"
  value       = aws_cloudformation_stack.this.outputs["RestoreCommand"]
}
