variable "name" {
  description = "The stack's name, and the prefix of its resources' names."
  type        = string
  default     = "failover"

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9-]{0,53}$", var.name))
    error_message = "name is a letter, then at most 53 letters, digits and hyphens: the functions' names add ten characters, and Lambda allows 64."
  }
}

variable "region" {
  description = "The Region of Route 53's metrics and alarms."
  type        = string
  default     = "us-east-1"
}

variable "bucket" {
  description = "An existing S3 bucket in region, for the template and the artifact."
  type        = string
}

variable "artifact" {
  description = "The file of the functions' code, as infra/package builds it."
  type        = string
}

variable "tags" {
  description = "Tags of the stack, which CloudFormation also sets on its resources, and of the alarms of health_checks."
  type        = map(string)
  default     = {}
}

variable "health_checks" {
  description = "With guarded_tag: the health checks to make an alarm for, by a key that becomes part of the alarm's name. Each has health_check_id, and may have alarm_actions_enabled, alarm_metric, alarm_threshold, alarm_period and alarm_evaluation_periods, as the inputs of these names. Set the tag on the health check itself."
  type = map(object({
    health_check_id          = string
    alarm_actions_enabled    = optional(bool, false)
    alarm_metric             = optional(string, "HealthCheckStatus")
    alarm_threshold          = optional(number, 1)
    alarm_period             = optional(number, 60)
    alarm_evaluation_periods = optional(number, 1)
  }))
  default  = {}
  nullable = false

  validation {
    condition = alltrue([
      for check in values(var.health_checks) : contains(["HealthCheckStatus", "HealthCheckPercentageHealthy"], check.alarm_metric)
    ])
    error_message = "alarm_metric in health_checks is HealthCheckStatus or HealthCheckPercentageHealthy."
  }

  validation {
    condition = alltrue([
      for check in values(var.health_checks) : (check.alarm_metric == "HealthCheckStatus") == (check.alarm_threshold == 1)
    ])
    error_message = "alarm_threshold in health_checks is 1 for HealthCheckStatus, which is 1 or 0. For HealthCheckPercentageHealthy give it in percent; Route 53 fails over at 18 percent and less, which is below 18.1."
  }
}

variable "health_check_id" {
  description = "The primary's Route 53 health check. Leave it out with guarded_tag."
  type        = string
  default     = null
}

variable "guarded_tag" {
  description = "A tag as key or key=value, instead of health_check_id. Every health check of the account that has it is guarded, and its alarm is yours; it notifies the topic in the output Topic."
  type        = string
  default     = null
}

variable "secondary_health_check_id" {
  description = "The secondary's health check. While it is also unhealthy, Route 53 answers with the primary, and no lock is set."
  type        = string
  default     = null
}

variable "secondary_health_checks" {
  description = "The same with guarded_tag: the secondary's health check for each primary's."
  type        = map(string)
  default     = null
}

variable "healthy_path" {
  description = "The path of a health check in service. A restore sets the path from before the lock, or this one if that path is unknown."
  type        = string
  default     = null
}

variable "locked_path" {
  description = "The path that never answers 2xx or 3xx."
  type        = string
  default     = null
}

variable "relock_undone" {
  description = "Whether reconcile locks a health check again whose lock was undone without a restore. Otherwise it only reports it."
  type        = bool
  default     = null
}

variable "notification_email" {
  description = "The address that is notified of locks and of everything that needs an operator. AWS sends a request to confirm."
  type        = string
  default     = null
}

variable "notification_topic_arn" {
  description = "An SNS topic of this Region that reaches people already, instead of notification_email."
  type        = string
  default     = null
}

variable "notification_key_arn" {
  description = "The KMS key of notification_topic_arn, where it has one. Its policy has to let cloudwatch.amazonaws.com use it."
  type        = string
  default     = null
}

variable "runbook_url" {
  description = "Where your people find docs/runbook.md. The alarms' descriptions, which their notifications contain, refer to its sections."
  type        = string
  default     = null
}

variable "alarm_actions_enabled" {
  description = "Whether the alarm acts. Set it to true when the primary is up and the alarm has been OK; it would lock a primary that is not up yet."
  type        = bool
  default     = null
}

variable "alarm_metric" {
  description = "The metric that the alarm watches, in the namespace AWS/Route53."
  type        = string
  default     = null
}

variable "alarm_threshold" {
  description = "The alarm goes off below this value. HealthCheckStatus is 1 or 0; for HealthCheckPercentageHealthy 18.1 is what Route 53 fails over at."
  type        = number
  default     = null
}

variable "alarm_period" {
  description = "Seconds, a multiple of 60."
  type        = number
  default     = null
}

variable "alarm_evaluation_periods" {
  description = "How many periods in a row have to be below the threshold."
  type        = number
  default     = null
}

variable "topic_arn" {
  description = "An existing SNS topic for the alarm, instead of a new one."
  type        = string
  default     = null
}

variable "alarm_name" {
  description = "An existing alarm that notifies topic_arn, instead of a new one. It acts as soon as the stack exists."
  type        = string
  default     = null
}

variable "architecture" {
  description = "The functions' architecture, which is that of the artifact: arm64 or x86_64."
  type        = string
  default     = "arm64"
  nullable    = false
}

variable "memory_size" {
  description = "MB of each function. 128 suffices, see docs/performance.md."
  type        = number
  default     = null
}

variable "lock_concurrency" {
  description = "Executions of lock at once, reserved from the account's. 0 reserves none. With many health checks 4."
  type        = number
  default     = null
}

variable "log_retention_days" {
  description = "How many days the functions' logs are kept."
  type        = number
  default     = null
}

variable "dry_run" {
  description = "Decide and log, change nothing."
  type        = bool
  default     = null
}

variable "permissions_boundary_arn" {
  description = "The permissions boundary of the functions' roles, if the account requires one. It must allow what their policies allow."
  type        = string
  default     = null
}

variable "role_path" {
  description = "The path of the functions' roles."
  type        = string
  default     = null
}

variable "key_arn" {
  description = "An existing customer managed key of this Region for the stack's topics, its queue and its logs. Without it the stack creates one for its topics. Its policy has to let CloudWatch, SNS and CloudWatch Logs use it, see docs/lock.md."
  type        = string
  default     = null
}

variable "create_dashboard" {
  description = "Create the dashboard, which costs USD 3 a month."
  type        = bool
  default     = null
}
